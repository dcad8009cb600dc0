from mmqsdt.cli.publish import main

if __name__ == '__main__':
    main()
